{{/* The label matchers of this release's series, as the PodMonitor labels them. */}}
{{- define "wan-t2v.series" -}}
namespace="{{ .Release.Namespace }}",app_kubernetes_io_instance="{{ .Release.Name }}"
{{- end -}}

{{/* Whether the streaming endpoint is not served. It alone exports the gauges, and the jobs' workers call it. */}}
{{- define "wan-t2v.unaryOnly" -}}
{{- if and (include "wan-t2v.onGpu" .) (eq .Values.placement.doors "unary") }}yes{{ end -}}
{{- end -}}
