"""`python -m nmt` is `nmt`."""

import sys

from nmt.commands import main

if __name__ == "__main__":
    sys.exit(main())
