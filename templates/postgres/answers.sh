# `answers` succeeds when PostgreSQL takes connections. The eighth line of this file says how far a server is; after a power
# cut it is that of the server before, until the new one writes its own. Read without a process, because every `pgprov up` does.
answers() {
  { read -r pid; for _ in 2 3 4 5 6 7 8; do read -r state; done; read -r name </proc/$pid/comm; } 2>/dev/null <{{ pg.data }}/postmaster.pid &&
    [ "$state $name" = "ready postgres" ]
}
