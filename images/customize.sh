#!/bin/sh
# Turns a fresh Debian tree into a golden image; run by the build, twice:
#   customize.sh before ROOT PARTS           before the packages of roles are installed
#   customize.sh after ROOT PARTS SECTORS    last: lays PARTS/files over the tree, builds the small initrd, removes identity
#                                            and caches, and what makes an emulated machine slow to boot
# SECTORS is the size of the disk. Every line here is part of the image's name: a change makes a new image.
set -eu
stage=$1 root=$2 parts=$3
in_root() { chroot "$root" "$@"; }
to_null() { mkdir -p "$root$1" && ln -sf /dev/null "$root$1/$2"; }

if [ "$stage" = before ]; then
  # A database cluster is made by the role that wants one.
  mkdir -p "$root/etc/postgresql-common"
  echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
  exit
fi
sectors=$4

chmod -R u=rwX,go=rX "$parts/files"
chmod 755 "$parts"/files/usr/lib/pgprov/*
cp -a --no-preserve=ownership "$parts/files/." "$root/"
mkdir -p "$root/usr/lib/pgprov/without-bpf"
: >"$root/usr/lib/pgprov/without-bpf/libbpf.so.1" # see initrd-init
echo "$sectors" >"$root/usr/lib/pgprov/sectors"

# --- services -----------------------------------------------------------------------------------------------------
# Disabled by preset: all that packages enabled. Masked: what other units would pull in and a lab host has no use for.
in_root systemctl -q preset-all
in_root systemctl -q set-default multi-user.target
grep -q LISTEN_FDS "$root/usr/sbin/sshd" || in_root sh -c 'systemctl -q disable ssh.socket && systemctl -q enable ssh.service'
for unit in \
  dev-hugepages.mount dev-mqueue.mount run-lock.mount tmp.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount \
  getty.target systemd-user-sessions.service systemd-ask-password-console.path \
  systemd-ask-password-wall.path systemd-initctl.socket systemd-update-utmp.service systemd-update-utmp-runlevel.service \
  systemd-pcrmachine.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pcrextend.socket \
  systemd-pcrlock.socket systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-creds.socket \
  systemd-sysext.socket systemd-rfkill.socket systemd-hibernate-clear.service systemd-firstboot.service \
  systemd-sysusers.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service \
  systemd-machine-id-commit.service systemd-random-seed.service systemd-binfmt.service systemd-modules-load.service \
  systemd-remount-fs.service systemd-journal-flush.service systemd-journald-audit.socket systemd-repart.service \
  systemd-boot-system-token.service systemd-udev-load-credentials.service systemd-network-generator.service \
  systemd-networkd-persistent-storage.service systemd-networkd-wait-online.service systemd-timesyncd.service \
  systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-clean.timer kmod-static-nodes.service modprobe@.service \
  ldconfig.service sshd-keygen.service; do
  to_null /etc/systemd/system "$unit"
done
for generator in bless-boot cryptsetup debug getty gpt-auto hibernate-resume integritysetup rc-local run ssh system-update \
  sysv tpm2 veritysetup; do
  to_null /etc/systemd/system-generators "systemd-$generator-generator"
done
for file in home.conf journal-nocow.conf static-nodes-permissions.conf systemd-nologin.conf systemd-pstore.conf x11.conf; do
  to_null /etc/tmpfiles.d "$file"
done
# D-Bus and logind start when something asks for them.
rm -f "$root"/usr/lib/systemd/system/multi-user.target.wants/dbus.service
rm -f "$root"/usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service
# The initrd mounts the root file system; there is no other.
rm -f "$root/etc/fstab"
case $(in_root dpkg-query -W -f '${Version}' systemd) in
  252*) sed -i '/^ImportCredential=/d' "$root/etc/systemd/system/service.d/lab.conf" ;; # unknown to this one
esac

# --- What a role installs on every host starts at boot: linked here, it need not be by each of them -----------------
mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -s /etc/systemd/system/pgprov-files.service "$root/etc/systemd/system/sysinit.target.wants/"

# --- udev: only the rules that a machine of virtio devices needs ---------------------------------------------------
for rules in "$root"/usr/lib/udev/rules.d/*.rules; do
  case ${rules##*/} in
    50-udev-default.rules | 60-block.rules | 60-persistent-storage.rules | 80-net-setup-link.rules) ;;
    *) to_null /etc/udev/rules.d "${rules##*/}" ;;
  esac
done
rm -f "$root/usr/lib/udev/hwdb.bin" "$root/etc/udev/hwdb.bin"

# --- pghost under its other names: a client of PostgreSQL for scripts, what makes a data directory one of its own, what installs files
for name in ask seed-cluster bundle; do ln -s pghost "$root/usr/lib/pgprov/$name"; done

# --- PostgreSQL: a data directory to take, by seed-cluster ------------------------------------------------------------
in_root install -d -o postgres -g postgres /usr/lib/pgprov/postgres
for bin in "$root"/usr/lib/postgresql/*/bin; do
  version=$(basename "$(dirname "$bin")")
  in_root setpriv --reuid=postgres --regid=postgres --clear-groups "/usr/lib/postgresql/$version/bin/initdb" --no-sync \
    -D "/usr/lib/pgprov/postgres/$version" --data-checksums --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=peer --auth-host=scram-sha-256
  # The first database of a topology is this one by another name: to make one costs an emulated primary half a second, and as much
  # each standby.
  case $version in 1[0-4]) file_copy= ;; *) file_copy=' strategy file_copy' ;; esac
  # A standby does not start with less of these than its control file says that the primary had: so it says the least. A primary
  # writes into its WAL what it has. And the next WAL begins with a file of its own: a standby asks for all of the file in which its
  # own WAL ends, which would be most of what initdb wrote.
  in_root setpriv --reuid=postgres --regid=postgres --clear-groups "/usr/lib/postgresql/$version/bin/postgres" --single \
    -D "/usr/lib/pgprov/postgres/$version" -c fsync=off -c max_connections=1 -c superuser_reserved_connections=0 \
    -c max_wal_senders=0 -c max_worker_processes=0 -c max_locks_per_transaction=10 -c wal_recycle=off postgres >/dev/null <<SQL
create database pgprov_spare$file_copy
comment on database pgprov_spare is 'spare'
select pg_switch_wal()
SQL
  # On the PATH of Debian are wrappers in Perl, which cost an emulated machine a second for each psql. They also say where
  # service files are.
  path=/usr/lib/postgresql/$version/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  echo "SetEnv PATH=$path PGSYSCONFDIR=/etc/postgresql-common" >>"$root/etc/ssh/sshd_config.d/lab.conf"
  # The same for scripts that come over the hypervisor's port.
  echo "Environment=PATH=$path PGSYSCONFDIR=/etc/postgresql-common" >"$root/tmp/environment"
  sed -i "/^Environment=HOME/r $root/tmp/environment" "$root/etc/systemd/system/lab-identity.service"
  rm "$root/tmp/environment"
done

# --- TLS: over the curve that PostgreSQL asks for unless told otherwise (ssl_ecdh_curve). What OpenSSL offers first costs each
# connection a way there and back more, and a key of a kind that an emulated machine makes slowly.
sed -i 's/^\[openssl_init\]$/&\nssl_conf = lab_ssl/' "$root/etc/ssl/openssl.cnf"
printf '[lab_ssl]\nsystem_default = lab_tls\n[lab_tls]\nGroups = P-256:X25519\n' >>"$root/etc/ssl/openssl.cnf"
grep -q '^ssl_conf = lab_ssl' "$root/etc/ssl/openssl.cnf"

# --- initrd: built with the tools of the tree, so that the machine that builds needs none ---------------------------
version=$(ls "$root/usr/lib/modules")
work=$root/tmp/initrd
mkdir -p "$work/bin" "$work/dev" "$work/proc" "$work/root" "$work/modules"
cp "$root/bin/busybox" "$work/bin/busybox"
cp "$parts/initrd-init" "$work/init"
chmod 755 "$work/init"
in_root modprobe -S "$version" -a --show-depends ext4 virtio_pci virtio_blk virtio_net virtio_console >"$root/tmp/depends"
while read -r verb path _; do
  [ "$verb" = insmod ] || continue # builtin
  name=$(basename "$path" .xz)
  [ -e "$work/modules/$name" ] && continue
  case $path in
    *.xz) in_root busybox xz -dc "$path" >"$work/modules/$name" ;;
    *) cp "$root$path" "$work/modules/$name" ;;
  esac
  echo "$name" >>"$work/modules/order"
done <"$root/tmp/depends"
in_root sh -c 'cd /tmp/initrd && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null' >"$root/boot/lab-initrd.img"
rm -rf "$work" "$root/tmp/depends"

# --- identity, caches, what belongs to the build --------------------------------------------------------------------
# bash reads it for every command that comes over SSH, which costs a tenth of a second under emulation.
rm -f "$root/root/.bashrc"
: >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
# The packaged initrd and the links to it: this one machine never boots from its own disk.
rm -f "$root"/boot/initrd.img-* "$root"/initrd.img* "$root"/vmlinuz*
rm -rf "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root"/var/log/*.log "$root"/var/log/apt "$root"/var/cache/debconf/*-old
# A private key that every host of every lab would share.
rm -f "$root/etc/ssl/private/ssl-cert-snakeoil.key" "$root/etc/ssl/certs/ssl-cert-snakeoil.pem"
echo UTC >"$root/etc/timezone"
ln -sf /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
echo LANG=C.UTF-8 >"$root/etc/default/locale"
rm -f "$root/etc/locale.conf"
echo LANG=C.UTF-8 >"$root/etc/locale.conf"
echo 127.0.0.1 localhost >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
