# Runs SQL again and again, % in it replaced by a number that is never used twice, over one connection as long as that lives.
# A line for each try: number, begin, end, the first line of the answer. No process a try: the machine may be emulated.
# Arguments: FOLDER NAME PAUSE TRIES SECONDS SQL PSQL...
trap '' PIPE HUP
folder=$1 name=$2 pause=$3 tries=$4 seconds=$5 sql=$6 i=0
shift 6
export PGSYSCONFDIR=/etc/postgresql-common
cd /
mkfifo "$folder/$name.never" && exec 9<>"$folder/$name.never"
rest() { read -r -t "$1" <&9; }
goes_on() { [ ! -e "$folder/$name.stop" ] && [ "$i" -lt "$tries" ] && [ "$SECONDS" -lt "$seconds" ]; }
while goes_on; do
  coproc PSQL { exec "$@" -XAtqw -v ON_ERROR_STOP=1 2>&1; }
  pid=$PSQL_PID to=${PSQL[1]} from=${PSQL[0]} good=yes
  while [ "$good" ] && goes_on; do
    i=$((i + 1)) at=$EPOCHREALTIME answer=
    { printf '%s;\n' "${sql//%/$i}" >&"$to"; } 2>/dev/null
    read -r -t 60 answer <&"$from" || answer=${answer:-nothing}
    echo "$i $at $EPOCHREALTIME $answer"
    case $answer in ok | primary | standby) ;; *) good= ;; esac
    rest "$pause"
  done
  kill "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  [ "$good" ] || rest 0.2
done >"$folder/$name" 2>/dev/null
