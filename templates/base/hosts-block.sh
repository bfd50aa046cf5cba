# cloud-init may make /etc/hosts anew at each boot, from its template.
files=/etc/hosts
[ ! -e /etc/cloud/templates/hosts.debian.tmpl ] || files="$files /etc/cloud/templates/hosts.debian.tmpl"
begin='# lab {{ lab.name }}, by pgprov'
end='# end of lab {{ lab.name }}'
block="$begin
{{ lab_hosts }}$end"
