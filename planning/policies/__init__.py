"""What proposes actions without a search: remembered actions, and an inverse-dynamics head."""
