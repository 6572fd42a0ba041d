# What a guest runs; calls of `scenario` follow. A line that begins with @@ is for the host.
# One test at a time: while the recording of one lists all descriptors it holds those of the others, and a processor that is
# emulated may stand still meanwhile.
export BINDWATCH=/t/bindwatch RUST_TEST_THREADS=1 RUST_BACKTRACE=0
ulimit -n 20000
scenario() {
  backend=$1 program=$2 name=$3
  shift 3
  echo "@@ begin $backend $name"
  start=$(cut -d. -f1 /proc/uptime)
  BINDWATCH_TEST_BACKEND=$backend timeout -k 5 "$PATIENCE" "$program" --exact "$@"
  status=$?
  echo
  echo "@@ end $backend $name $status $(($(cut -d. -f1 /proc/uptime) - start))"
}
feature() {
  if eval "$2" > /dev/null 2>&1; then echo "@@ feature $1 yes"; else echo "@@ feature $1 no"; fi
}
echo "@@ kernel $(uname -r)"
