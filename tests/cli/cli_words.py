"""Words that tests of the command line have in common."""

QUICK = ("--set", "steps=2", "--set", "twins_per_step=4", "--set", "anchors_per_step=4")
