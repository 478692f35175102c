"""What the product does for an app: thin flows that compose the rooms below."""
