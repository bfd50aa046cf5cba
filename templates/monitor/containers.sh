systemctl restart monitoring-containers.service && exit 0
journalctl -n 20 --no-pager -q -u monitoring-containers.service
docker compose --project-directory /srv/monitoring logs --no-color -n 20
exit 1
