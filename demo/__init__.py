"""The small chat model that ships with the project: its dialogues, training and examination."""
