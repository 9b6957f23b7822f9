{{/* A whole number, or nothing for a null, so that Kubernetes' own default holds; `int64` alone would make it 0. */}}
{{- define "wan-t2v.int" -}}
{{- if not (kindIs "invalid" .) }}{{ int64 . }}{{ end -}}
{{- end -}}

{{/* The whole number at this path of the values. Rendering fails for a null, which arithmetic would take for 0. */}}
{{- define "wan-t2v.number" -}}
{{- $path := index . 1 -}}
{{- $value := (index . 0).Values -}}
{{- range splitList "." $path -}}
{{- $value = index (default dict $value) . -}}
{{- end -}}
{{- if kindIs "invalid" $value -}}
{{- fail (printf "%s: not set, accepted: a whole number; set one, or leave the value out for the chart's default (after another chart: --reset-then-reuse-values instead of --reuse-values)" $path) -}}
{{- end -}}
{{- int64 $value -}}
{{- end -}}
