# Says on the prompt which lab and host this is, and keeps the history of what was tried.
if [ -n "${PS1:-}" ]; then
  PS1='\[\e[1m\]{{ host.name }}\[\e[0m\] ({{ lab.name }}) \w \$ '
  HISTSIZE=10000
fi
