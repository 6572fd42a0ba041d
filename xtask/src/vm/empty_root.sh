#!/bin/sh
# A test program as cargo's: what bindwatch does where there is no other file. Only kernel file systems are mounted.
names="empty_root::doctor empty_root::run_by_itself empty_root::report"
if [ "$1" = --list ]; then
  for name in $names; do echo "$name: test"; done
  exit 0
fi
root=/tmp/empty
mkdir -p $root/proc $root/sys $root/dev
cp /t/bindwatch $root/bindwatch
mount -t proc proc $root/proc
mount -t devtmpfs dev $root/dev
mount --rbind /sys $root/sys
status=0
tell() {
  if [ "$2" = 0 ]; then echo "test $1 ... ok"; else echo "test $1 ... FAILED"; status=101; fi
}
chroot $root /bindwatch doctor
tell empty_root::doctor $?
chroot $root /bindwatch run --output /log.jsonl -- /bindwatch --version
tell empty_root::run_by_itself $?
chroot $root /bindwatch report /log.jsonl
tell empty_root::report $?
umount -l $root/sys $root/proc $root/dev
rm -rf $root
exit $status
