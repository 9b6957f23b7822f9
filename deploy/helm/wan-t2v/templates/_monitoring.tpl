{{/* The label matchers of this release's series, as the PodMonitor labels them. */}}
{{- define "wan-t2v.series" -}}
namespace="{{ .Release.Namespace }}",app_kubernetes_io_instance="{{ .Release.Name }}"
{{- end -}}

{{/* Only the streaming endpoint exports the gauges, for both endpoints. */}}
{{- define "wan-t2v.withoutGauges" -}}
{{- if and (include "wan-t2v.onGpu" .) (eq .Values.placement.doors "unary") }}yes{{ end -}}
{{- end -}}
