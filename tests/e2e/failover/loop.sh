#!/bin/bash
# loop.sh NAME PAUSE CONNINFO SQL   Runs SQL again and again, % in it replaced by a number that is never used twice, over one
# connection as long as that lives; a line for each try: number, begin, end, the first line of the answer.
# Ends when /tmp/drill/stop is there. No process a try: the machine is emulated.
trap '' PIPE
out=/tmp/drill/$1 pause=$2 conninfo=$3 sql=$4 i=0
mkfifo "$out.never" && exec 9<>"$out.never"
rest() { read -r -t "$1" <&9; }
while [ ! -e /tmp/drill/stop ]; do
  coproc PSQL { exec psql -XAtqw -v ON_ERROR_STOP=1 "$conninfo" 2>&1; }
  pid=$PSQL_PID to=${PSQL[1]} from=${PSQL[0]} good=yes
  while [ "$good" ] && [ ! -e /tmp/drill/stop ]; do
    i=$((i + 1)) at=$EPOCHREALTIME answer=
    { printf '%s;\n' "${sql//%/$i}" >&"$to"; } 2>/dev/null
    read -r -t 60 answer <&"$from" || answer=${answer:-nothing}
    echo "$i $at $EPOCHREALTIME $answer"
    case $answer in ok | t | f) ;; *) good= ;; esac
    rest "$pause"
  done
  kill "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  [ "$good" ] || rest 0.2
done >"$out"
