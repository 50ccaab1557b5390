import sys

from zaqar_notify.cli import main

sys.exit(main())
