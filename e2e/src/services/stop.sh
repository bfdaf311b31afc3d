# stop SIGNAL FILE...   ends the process that each file names ("pid start-time signal address"), then removes the file
# watch FOLDER          waits for the end of its input, which comes when the owner dies; then stops all and removes FOLDER
# An empty SIGNAL means the one in the file. What still runs after 10 s is killed.

# Whether process $1 still is the one that started at $2, and not a zombie that nobody has waited for.
runs() {
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- "$2" ${stat##*) }
  [ "$2" != Z ] && [ "${21}" = "$1" ]
}

# send SIGNAL FILE...: to the processes that still run; KILL also to their children, which would outlive them.
send() {
  signal=$1
  shift
  for file; do
    [ -f "$file" ] && read -r pid start own _ <"$file" && runs "$pid" "$start" || continue
    children=
    [ "$signal" = KILL ] && read -r children <"/proc/$pid/task/$pid/children"
    kill -s "${signal:-$own}" "$pid" $children 2>/dev/null
  done
}

# gone FILE...: waits up to 10 s until none of the processes runs.
gone() {
  left=200
  while :; do
    running=
    for file; do
      [ -f "$file" ] && read -r pid start _ <"$file" && runs "$pid" "$start" && running="$running $pid"
    done
    [ -z "$running" ] && return 0
    [ "$left" -eq 0 ] && return 1
    left=$((left - 1))
    sleep 0.05
  done
}

stop() {
  send "$@"
  shift
  gone "$@" || { send KILL "$@"; gone "$@"; } || { echo "still running:$running" >&2; return 1; }
  rm -f "$@"
}

case $0 in
stop) stop "$@" ;;
watch)
  trap '' HUP INT TERM
  cat >/dev/null
  stop '' "$1"/*.pid || exit 1
  # What an owner killed in the middle of its preparations was running may still be writing for a moment.
  left=200
  until rm -rf "$1" 2>/dev/null; do
    [ "$left" -eq 0 ] && exit 1
    left=$((left - 1))
    sleep 0.05
  done
  ;;
esac
