"""The trajectory store: written so that nothing committed is lost, read so that no damage goes unnoticed."""
