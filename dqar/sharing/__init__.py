"""Plans and policies as folders with a card, on this machine or on the Hugging Face Hub."""
