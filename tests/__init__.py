import warnings

# A warning fails the test that brings it about, in this process; what tests start is left alone.
warnings.simplefilter("error")
# These fire while third parties' packages are imported, and say nothing about ours.
warnings.filterwarnings("ignore", message="eventletutils module is deprecated")
