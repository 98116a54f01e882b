#!/usr/bin/env bash
# Checks that includes go one way: each folder of src/swiftprune may include itself and the folders listed here.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A allowed=(
  [core]=""
  [ranks]="core"
  [tensor]="core"
  [backend]="core tensor"
  [checkpoint]="core tensor"
  [text]="core"
  [templates]="core checkpoint text"
  [scoring]="core tensor backend"
  [selection]="core tensor scoring"
  [masking]="core tensor selection"
  [refinement]="core tensor backend scoring selection"
  [sparse]="core tensor backend checkpoint"
  [model]="core tensor backend checkpoint text sparse"
  [calibration]="core ranks tensor backend scoring text model"
  [evaluation]="core ranks tensor backend checkpoint text sparse masking model"
  [export]="core tensor backend checkpoint text scoring masking refinement sparse model calibration pipeline selection"
  [structure]="core tensor backend scoring model"
  [pipeline]="core ranks tensor backend checkpoint text scoring selection masking structure refinement sparse model calibration evaluation"
  [serving]="core tensor backend checkpoint text templates sparse model"
  # One arrow of device goes to what implements it: cuda/device.h, a single function.
  [device]="core ranks tensor backend checkpoint text templates sparse model calibration evaluation pipeline serving"
  [cuda]="core ranks tensor backend checkpoint text scoring selection masking refinement structure sparse model calibration evaluation pipeline device"
  [report]="core ranks tensor backend checkpoint text selection masking sparse model pipeline evaluation device"
  [pilot]="core tensor backend checkpoint text selection masking sparse model pipeline evaluation device report"
  [recovery]="core tensor checkpoint text"
  [tune]="core ranks tensor backend checkpoint text selection masking structure sparse model pipeline evaluation device report pilot"
  [api]="core ranks tensor backend checkpoint text templates selection masking structure sparse model calibration evaluation pipeline device report pilot"
)

status=0
for folder in src/swiftprune/*/; do
  name=$(basename "$folder")
  if [ -z "${allowed[$name]+x}" ]; then
    echo "check_includes: src/swiftprune/$name has no line in $0" >&2
    status=1
    continue
  fi
  while IFS=: read -r file line text; do
    target=$(sed -E 's|.*"swiftprune/([a-z_]+)/.*|\1|' <<<"$text")
    case " $name ${allowed[$name]} " in
      *" $target "*) ;;
      *) echo "$file:$line: $name may not include $target" >&2; status=1 ;;
    esac
  done < <(grep -rnE '#include "swiftprune/[a-z_]+/' "$folder" || true)
done
exit $status
