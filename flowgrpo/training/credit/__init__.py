"""What credit is worth: how much of an update's gradient points the right way, for what it costs, on fixed weights."""
