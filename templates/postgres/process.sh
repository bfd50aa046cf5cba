# `process WORDS` succeeds when the server has a process whose title has these words, and leaves its number in $found. In one process
# of its own, because every `pgprov up` asks: the shell would read the titles, which are padded, byte by byte.
process() {
  # The list of children does not end with a newline.
  { read -r server && { read -r children </proc/$server/task/$server/children || [ -n "$children" ]; }; } 2>/dev/null <{{ pg.data }}/postmaster.pid ||
    return 1
  titles=
  for child in $children; do titles="$titles /proc/$child/cmdline"; done
  found=$(grep -la "^postgres: .*$1" $titles 2>/dev/null) found=${found#/proc/} found=${found%%/*}
  [ -n "$found" ]
}
