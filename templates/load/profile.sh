# pgload by hand connects where `pgprov load` does.
set -a
. /etc/pgload/environment
set +a
