# For `etcdctl member list`, `etcdctl get --prefix /service`.
export ETCDCTL_ENDPOINTS={% for other in lab.hosts %}{% if "etcd" in other.roles %}https://{{ other.name }}:2379,{% endif %}{% endfor %}
export ETCDCTL_CACERT=/etc/pgprov/ca.crt ETCDCTL_CERT=/etc/etcd/host.crt ETCDCTL_KEY=/etc/etcd/host.key
