"""The journeys that join the rooms, the reports, and the command line."""
