"""``python -m inverseform_fast.cli`` is ``inverseform-fast``."""

from . import main

main()
