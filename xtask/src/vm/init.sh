#!/bin/busybox sh
# Process 1 in the initramfs of the guest: makes a root out of the host's, read-only and with a layer of memory on top, and
# hands over to guest.sh in it.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module" || echo "insmod $module failed"
done
mount -t tmpfs -o mode=755,size=75% layer /layer
mkdir -p /layer/host /layer/changes /layer/work
mount -t virtiofs -o ro host /layer/host || exec sh
mount -t overlay -o lowerdir=/layer/host,upperdir=/layer/changes,workdir=/layer/work root /root || exec sh
mkdir -p /root/run /root/proc /root/dev /root/sys /root/tmp
mount --move /dev /root/dev
umount /proc
mount -t tmpfs run /root/run
cp /guest.sh /job.sh /kernel /root/run/
exec switch_root /root /bin/bash /run/guest.sh
