# `process WORDS` succeeds when the server has processes whose titles have these words, and leaves their numbers in $found. In one process
# of its own, because every `pgprov up` asks: the shell would read the titles, which are padded, byte by byte. `position` prints how far
# the receiver is.
titles() {
  # The list of children does not end with a newline.
  { read -r server && { read -r children </proc/$server/task/$server/children || [ -n "$children" ]; }; } 2>/dev/null <{{ pg.data }}/postmaster.pid ||
    return 1
  titles=
  for child in $children; do titles="$titles /proc/$child/cmdline"; done
}
process() {
  found=
  titles || return 1
  for path in $(grep -la "^postgres: .*$1" $titles 2>/dev/null); do path=${path#/proc/} found="$found ${path%%/*}"; done
  [ -n "$found" ]
}
position() { titles && grep -aho 'walreceiver.*streaming [0-9A-F]*/[0-9A-F]*' $titles 2>/dev/null; }
