{{/* The row of files/placement.json for these values, as JSON. Rendering fails for a deployment that does not fit. */}}
{{- define "wan-t2v.placement" -}}
{{- $table := .Files.Get "files/placement.json" | fromJson -}}
{{- $gpus := .Values.placement.gpus | join "+" -}}
{{- $sizes := .Values.placement.sizes | join "," -}}
{{- if not (has $gpus $table.gpus) -}}
{{- fail (printf "placement.gpus: %s, accepted: %s" $gpus (join "; " $table.gpus)) -}}
{{- end -}}
{{- if not (has $sizes $table.sizes) -}}
{{- fail (printf "placement.sizes: %s, accepted: %s" $sizes (join "; " $table.sizes)) -}}
{{- end -}}
{{- /* INT8 needs as much memory as FP8, so the table has one row for both. */ -}}
{{- $experts := ternary "fp8" .Values.placement.experts (eq .Values.placement.experts "int8-bf16") -}}
{{- $key := printf "%s %s %s %s %s" $gpus $sizes $experts .Values.placement.vae .Values.placement.doors -}}
{{- $row := get $table.rows $key -}}
{{- if hasKey $row "why" -}}
{{- fail (printf "%s GB cannot hold %s with experts in %s and the VAE in %s, doors: %s: %s. What would fit: %s" $gpus $sizes .Values.placement.experts .Values.placement.vae .Values.placement.doors $row.why (default "larger GPUs or fewer sizes" (join "; " $row.instead))) -}}
{{- end -}}
{{- $options := default (index $table.optionSets (int $row.options)) .Values.placement.options -}}
{{- set $row "options" $options | toJson -}}
{{- end -}}

{{/* Options of `python -m export placement`, which the pod runs again with the measured plans. */}}
{{- define "wan-t2v.placementArguments" -}}
{{- range .Values.placement.gpus }}
- --gpu
- {{ . | quote }}
{{- end }}
{{- range .Values.placement.sizes }}
- --size
- {{ . | quote }}
{{- end }}
- --precision
- {{ .Values.placement.experts }}
- --vae-precision
- {{ .Values.placement.vae }}
- --door
- {{ .Values.placement.doors }}
- --text-encoder
- {{ include "wan-t2v.textEncoder" . }}
- --vae-engine
- {{ include "wan-t2v.vaeEngine" . }}
{{- end -}}

{{/* Device of the text encoder and engine of the VAE: the operator's choice, else the table's. */}}
{{- define "wan-t2v.textEncoder" -}}
{{- default (include "wan-t2v.placement" . | fromJson).textEncoder .Values.placement.textEncoder -}}
{{- end -}}

{{- define "wan-t2v.vaeEngine" -}}
{{- default (include "wan-t2v.placement" . | fromJson).vaeEngine .Values.placement.vaeEngine -}}
{{- end -}}

{{/* Host and shared memory in GiB. */}}
{{- define "wan-t2v.shmGib" -}}
{{- if .Values.resources.shmGib -}}
{{- int64 .Values.resources.shmGib -}}
{{- else if include "wan-t2v.onGpu" . -}}
{{- (include "wan-t2v.placement" . | fromJson).shmGib -}}
{{- else -}}
{{- fail "resources.shmGib: must be set with engine onnxruntime, such as 1" -}}
{{- end -}}
{{- end -}}

{{- define "wan-t2v.memoryGib" -}}
{{- if .Values.resources.memoryGib -}}
{{- int64 .Values.resources.memoryGib -}}
{{- else if include "wan-t2v.onGpu" . -}}
{{- (include "wan-t2v.placement" . | fromJson).memoryGib -}}
{{- else -}}
{{- fail "resources.memoryGib: must be set with engine onnxruntime, such as 8" -}}
{{- end -}}
{{- end -}}
