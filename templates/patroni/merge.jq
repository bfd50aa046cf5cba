# Three ways: `applied` is what was applied last, `wanted` what the topology wants, `live` what there is. Which keys were applied
# stands in the dynamic configuration itself, so that it follows every failover and changes in the same PATCH.
def leaves: [paths(type != "object")] | map(select(all(.[]; type == "string")));
def at($path): try getpath($path) catch null;
def shown: if type == "string" then . else tojson end;
($wanted | leaves) as $paths
| ($live | at(["pgprov", "applied"]) // []) as $applied
| ($applied - $paths | map(select(. as $path | $live | at($path) != null))) as $gone
| ($paths | map(select(. as $path | ($live | at($path)) != ($wanted | getpath($path))))) as $changed
| if $mode == "lines" then
    ($changed[] | . as $path | ($live | at($path)) as $old
      | if $old == null then "+ \(join(".")) = \($wanted | getpath($path) | shown)"
        else "~ \(join(".")): \($old | shown) -> \($wanted | getpath($path) | shown)" end),
    ($gone[] | . as $path | "- \(join(".")) (\($live | at($path) | shown))")
  else
    reduce $gone[] as $path ({}; setpath($path; null))
    | reduce $changed[] as $path (.; setpath($path; $wanted | getpath($path)))
    | if $applied == $paths then . else .pgprov.applied = $paths end
  end
