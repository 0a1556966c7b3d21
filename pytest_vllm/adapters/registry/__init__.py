"""A registry of images, as the OCI distribution spec has it, and who we are there."""
