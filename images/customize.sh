#!/bin/sh
# customize.sh ROOT FILES INITRD_INIT: the last step of the image build. Turns the fresh Debian tree ROOT into a golden image: lays
# FILES over it, builds the small initrd, and removes identity, caches and what makes an emulated boot slow.
set -eu
root=$1 files=$2 init=$3

cp -a --no-preserve=ownership "$files/." "$root/"
in_root() { chroot "$root" "$@"; }
case $(in_root dpkg-query -W -f '${Version}' systemd) in
  252*) sed -i '/^ImportCredential=/d' "$root/etc/systemd/system/service.d/lab.conf" ;; # newer than this systemd
esac

# --- services -----------------------------------------------------------------------------------------------------
unit() { mkdir -p "$root/etc/systemd/system"; ln -sf /dev/null "$root/etc/systemd/system/$1"; }
# Nothing in a lab host that wakes up by itself, has no hardware here, or serves a first-boot wizard.
for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service man-db.timer \
  systemd-timesyncd.service systemd-networkd-wait-online.service systemd-firstboot.service sshd-keygen.service \
  getty@tty1.service serial-getty@ttyS0.service getty.target systemd-logind.service \
  systemd-pcrmachine.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-tpm2-setup.service \
  systemd-tpm2-setup-early.service systemd-pcrextend.socket systemd-pcrlock.socket systemd-hwdb-update.service \
  systemd-journal-catalog-update.service systemd-update-done.service ldconfig.service systemd-sysusers.service systemd-binfmt.service \
  proc-sys-fs-binfmt_misc.automount systemd-hibernate-clear.service systemd-sysext.socket systemd-pstore.service systemd-creds.socket \
  systemd-ask-password-console.path systemd-ask-password-wall.path systemd-initctl.socket systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service sys-fs-fuse-connections.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
  dev-hugepages.mount dev-mqueue.mount run-lock.mount tmp.mount systemd-machine-id-commit.service systemd-rfkill.socket modprobe@.service \
  kmod-static-nodes.service systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service systemd-udev-load-credentials.service \
  systemd-network-generator.service systemd-networkd-persistent-storage.service systemd-journal-flush.service systemd-user-sessions.service \
  systemd-modules-load.service systemd-random-seed.service systemd-remount-fs.service; do
  unit "$u"
done
for g in systemd-gpt-auto-generator systemd-hibernate-resume-generator systemd-rc-local-generator systemd-ssh-generator \
  systemd-system-update-generator systemd-sysv-generator systemd-tpm2-generator systemd-getty-generator systemd-run-generator \
  systemd-debug-generator systemd-cryptsetup-generator systemd-veritysetup-generator systemd-bless-boot-generator; do
  mkdir -p "$root/etc/systemd/system-generators"; ln -sf /dev/null "$root/etc/systemd/system-generators/$g"
done
rm -rf "$root"/etc/systemd/system/ssh*.wants "$root"/etc/systemd/system/sshd@.service.wants "$root/etc/systemd/system/postgresql.service.wants"
in_root systemctl -q enable systemd-networkd.service ssh.service
in_root systemctl -q disable postgresql.service 2>/dev/null || true

# --- udev: only the rules that a virtio machine needs --------------------------------------------------------------
for r in "$root"/usr/lib/udev/rules.d/*.rules; do
  case ${r##*/} in
    50-udev-default.rules | 60-block.rules | 60-persistent-storage.rules | 80-net-setup-link.rules) ;;
    *) mkdir -p "$root/etc/udev/rules.d"; ln -sf /dev/null "$root/etc/udev/rules.d/${r##*/}" ;;
  esac
done
rm -f "$root/usr/lib/udev/hwdb.bin" "$root/etc/udev/hwdb.bin" "$root/lib/udev/hwdb.bin"

mkdir -p "$root/etc/tmpfiles.d"
for t in systemd-nologin.conf x11.conf systemd-pstore.conf home.conf journal-nocow.conf static-nodes-permissions.conf; do
  ln -sf /dev/null "$root/etc/tmpfiles.d/$t"
done
# D-Bus starts when something asks for it.
rm -f "$root/usr/lib/systemd/system/multi-user.target.wants/dbus.service"
rm -f "$root/etc/fstab"

# --- initrd: built with the tools of the tree itself, so that the machine that builds needs none ----------------------
version=$(ls "$root/usr/lib/modules")
work=$root/tmp/initrd
mkdir -p "$work/bin" "$work/dev" "$work/proc" "$work/root" "$work/modules"
cp "$root/bin/busybox" "$work/bin/busybox"
cp "$init" "$work/init"
chmod 755 "$work/init"
in_root modprobe -S "$version" -a --show-depends ext4 virtio_pci virtio_blk virtio_net >"$root/tmp/depends"
while read -r verb path _; do
  [ "$verb" = insmod ] || continue
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

# --- identity, caches, docs ---------------------------------------------------------------------------------------
: >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
rm -f "$root"/boot/initrd.img-* "$root"/initrd.img* "$root"/vmlinuz*
rm -rf "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/lintian
printf 'UTC\n' >"$root/etc/timezone"; ln -sf /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"; printf 'LANG=C.UTF-8\n' >"$root/etc/locale.conf"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
