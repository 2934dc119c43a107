#!/bin/sh
# Sets omni up for this machine and starts nothing. Arguments: further extras of setup.cfg.
exec "$(dirname -- "$0")/bin/omni" install "$@"
