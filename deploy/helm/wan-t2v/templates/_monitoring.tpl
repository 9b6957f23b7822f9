{{/* The label matchers of this release's series, as the PodMonitor labels them. */}}
{{- define "wan-t2v.series" -}}
namespace="{{ .Release.Namespace }}",app_kubernetes_io_instance="{{ .Release.Name }}"
{{- end -}}

{{- define "wan-t2v.alertLabels" -}}
app_kubernetes_io_instance: {{ .Release.Name }}
{{- end -}}
