#!/bin/bash
# Process 1 of the guest: what a systemd of today has mounted when a kubelet starts, then the job. Its output goes to the
# second serial port, how it ended to the third; the first is the kernel's.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
# The host's /tmp shows other runs, and the tests clear up after those that have ended. Below /run the tests' container runtime,
# which has one of its own, would not see it.
export TMPDIR=/guest
mkdir "$TMPDIR"
mount -t tmpfs guest "$TMPDIR"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount --make-rshared /
# The modules of this kernel, in place of the host's. Those that a program cannot ask for by using them are loaded here.
mkdir -p /lib/modules
mount -t tmpfs modules /lib/modules
ln -s "$(cat /run/kernel)/lib/modules/$(uname -r)" /lib/modules/
for module in veth bridge sch_ingress cls_bpf macvlan ipvlan tun; do
    modprobe "$module" || echo "modprobe $module failed"
done
ip link set lo up
# On the one processor a receiver may wait long for its turn: what it has not read yet must not count as lost on the way.
echo 8388608 > /proc/sys/net/core/rmem_default
# A group may give controllers to those below it only while no process is in it.
mkdir /sys/fs/cgroup/init.scope
echo $$ > /sys/fs/cgroup/init.scope/cgroup.procs
for pid in $(cat /sys/fs/cgroup/cgroup.procs); do
    echo "$pid" > /sys/fs/cgroup/init.scope/cgroup.procs
done 2> /dev/null
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
echo "guest: Linux $(uname -r), up in $(cut -d' ' -f1 /proc/uptime) s, lsm $(cat /sys/kernel/security/lsm), controllers $(cat /sys/fs/cgroup/cgroup.controllers)" > /dev/ttyS1
bash /run/job.sh > /dev/ttyS1 2>&1 < /dev/null
echo "$?" > /dev/ttyS2
# What was written must have left the ports.
stty -F /dev/ttyS1 -a > /dev/null
sleep 0.2
echo o > /proc/sysrq-trigger
sleep 60
