#!/bin/busybox sh
# First process of a guest. Its console is the kernel's; what it finds goes to the second serial line, files to the third.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin /usr/sbin /var/empty
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 tmp /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
ln -s /proc/self/fd /dev/fd
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up
hostname guest
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
. /plan > /dev/ttyS1 2>&1 < /dev/null
cd /tmp && tar -czf /dev/ttyS2 .
sync
poweroff -f
