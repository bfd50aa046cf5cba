# It reads what it wrote before it was stopped, and answers nobody meanwhile.
for try in $(seq 180); do
  curl -sf -m 5 -o /dev/null http://{{ host.mgmt.address }}:9090/-/ready && exit 0
  sleep 0.5
done
echo 'Prometheus is not ready within 90 s'
journalctl -n 20 --no-pager -q -u prometheus.service
exit 1
