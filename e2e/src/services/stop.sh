# stop SIGNAL FILE...   stops the process of each pid file ("pid start-time signal address"), then removes the file
# watch FOLDER          waits until its input is closed, which happens when the owner exits; then stops all and removes FOLDER
# An empty SIGNAL is the one in the file. A process that still runs after 10 s is killed.

# True if process $1 is still the one that started at $2, and not a zombie.
runs() {
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  set -- "$2" ${stat##*) }
  [ "$2" != Z ] && [ "${21}" = "$1" ]
}

# send SIGNAL FILE...: signals the processes that still run; KILL also goes to their children, which would survive.
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

# wait_gone FILE...: waits up to 10 s until all processes have exited.
wait_gone() {
  attempts=200
  while :; do
    running=
    for file; do
      [ -f "$file" ] && read -r pid start _ <"$file" && runs "$pid" "$start" && running="$running $pid"
    done
    [ -z "$running" ] && return 0
    [ "$attempts" -eq 0 ] && return 1
    attempts=$((attempts - 1))
    sleep 0.05
  done
}

stop() {
  send "$@"
  shift
  wait_gone "$@" || { send KILL "$@"; wait_gone "$@"; } || { echo "still running:$running" >&2; return 1; }
  rm -f "$@"
}

case $0 in
stop) stop "$@" ;;
watch)
  trap '' HUP INT TERM
  cat >/dev/null
  stop '' "$1"/*.pid || exit 1
  # If the owner was killed while it prepared a service, a helper such as initdb may still write for a moment.
  attempts=200
  until rm -rf "$1" 2>/dev/null; do
    [ "$attempts" -eq 0 ] && exit 1
    attempts=$((attempts - 1))
    sleep 0.05
  done
  ;;
esac
