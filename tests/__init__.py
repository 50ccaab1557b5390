import warnings

# Tests run with warnings as errors. These fire while third parties' packages are imported, and say nothing about ours.
warnings.filterwarnings("ignore", message="eventletutils module is deprecated")
