# Counts tests by layer in what `cargo test` and images/test print, and repeats what says that it was not run.

FNR == 1 && FILENAME ~ /gpu\.log$/ { layer = "on a GPU" } # no cargo runs it
/^ +Running / {
  match($0, /deps\/[^)]+/)
  program = substr($0, RSTART + 5, RLENGTH - 5)
  sub(/-[0-9a-f]+$/, "", program)
  if (FILENAME ~ /faults\.log$/) layer = "faults"
  else layer = program in named ? named[program] : ($0 ~ / tests\//) ? "integration" : "unit"
}
/^ +Doc-tests / { layer = "documentation" }
/^test result:/ {
  count(layer, $4, $6, $8)
  match($0, /finished in [0-9.]+/)
  seconds[layer] += substr($0, RSTART + 12, RLENGTH - 12)
}
/^(NOT RUN|SKIPPED): / { not_run[++missing] = $0 }
/^[0-9]+ passed, [0-9]+ failed$/ { count("container images", $1, $3, 0) }

function count(layer, p, f, s) {
  if (!(layer in passed)) order[++layers] = layer
  passed[layer] += p; failed[layer] += f; skipped[layer] += s
  all_passed += p; all_failed += f; all_skipped += s
}

BEGIN {
  named["apiserver"] = "API server"
  named["cel"] = "CEL"
  named["contract"] = "contract"
  named["e2e"] = "end-to-end"
  named["golden"] = "golden"
  named["hostile"] = "hostile clients"
  named["scripts"] = "scripts"
  named["tidy"] = "tidy"
}
END {
  printf "\n%-18s %7s %7s %8s %9s\n", "layer", "passed", "failed", "skipped", "seconds"
  for (i = 1; i <= layers; i++) {
    layer = order[i]
    printf "%-18s %7d %7d %8d %9.1f\n", layer, passed[layer], failed[layer], skipped[layer], seconds[layer]
  }
  printf "\n%d passed, %d failed, %d skipped\n", all_passed, all_failed, all_skipped
  for (i = 1; i <= missing; i++) print not_run[i]
}
