# `process WORDS` succeeds when the server has a process whose title has these words, and leaves its number in $found. Without
# another process, because every `pgprov up` asks, and `reset` asks a machine of which nothing is translated yet.
process() {
  { read -r server && read -r children </proc/$server/task/$server/children; } 2>/dev/null <{{ pg.data }}/postmaster.pid || children=
  for found in $children; do
    title=
    read -r title </proc/$found/cmdline || :
    case $title in "postgres: "*$1*) return 0 ;; esac
  done 2>/dev/null
  return 1
}
