# `children` leaves the numbers of the server's processes in $children. `title NUMBER` leaves what one calls itself in $title. `process WORDS`
# succeeds when there is one whose title has these words, a pattern of the shell, and leaves its number in $found. The shell reads titles
# byte by byte, a hundred of them, which costs an emulated host less than to start a program that it has not run before.
children() {
  # The list does not end with a newline.
  { read -r server && { read -r children </proc/$server/task/$server/children || [ -n "$children" ]; }; } 2>/dev/null <{{ pg.data }}/postmaster.pid
}
title() {
  title=
  # Nor does a title. One that is gone has none.
  { IFS= read -r title </proc/$1/cmdline; } 2>/dev/null || [ -n "$title" ]
}
process() {
  children || return 1
  for found in $children; do
    title $found || continue
    case $title in "postgres: "*$1*) return 0 ;; esac
  done
  return 1
}
# Waits a moment: for the next line of whoever runs this script, if that is pghost, and by a process if not.
moment() { read -r line <&8 || sleep 0.1; } 2>/dev/null
