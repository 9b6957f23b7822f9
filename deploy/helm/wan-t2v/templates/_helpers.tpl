{{/* Names and labels. */}}
{{- define "wan-t2v.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wan-t2v.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "wan-t2v.labels" -}}
{{ include "wan-t2v.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Entries of several maps as one map, so that no key stands twice; a later map's value counts. (`merge` drops empty ones.) */}}
{{- define "wan-t2v.entries" -}}
{{- $entries := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- $_ := set $entries $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $entries -}}
{{- end -}}

{{/* Labels with the operator's own. What Services and other objects select by stays the chart's. */}}
{{- define "wan-t2v.labelsWith" -}}
{{- $chart := include "wan-t2v.labels" (index . 0) | fromYaml -}}
{{- $selector := include "wan-t2v.selector" (index . 0) | fromYaml -}}
{{- include "wan-t2v.entries" (list $chart (index . 1) $selector) -}}
{{- end -}}

{{- define "wan-t2v.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "wan-t2v.adminSecret" -}}
{{- default (printf "%s-admin" (include "wan-t2v.fullname" .)) .Values.server.adminKey.existingSecret -}}
{{- end -}}

{{/* The complete restricted profile of the Pod Security Standards. */}}
{{- define "wan-t2v.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "wan-t2v.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Scheduling of this deployment's pods: node selector, tolerations, affinity, priority and runtime class. */}}
{{- define "wan-t2v.scheduling" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $onProducts := include "wan-t2v.products" . }}
{{- $affinity := default dict .Values.affinity }}
{{- if and $onProducts $affinity.nodeAffinity }}
{{- fail "affinity.nodeAffinity takes the place of gpu.products: put the label nvidia.com/gpu.product into it and leave gpu.products empty" }}
{{- end }}
{{- if or $affinity $onProducts }}
affinity:
  {{- if $onProducts }}
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - key: nvidia.com/gpu.product
              operator: In
              values:
                {{- toYaml .Values.gpu.products | nindent 16 }}
  {{- end }}
  {{- /* A nodeAffinity that is null would stand here a second time, and hold. */}}
  {{- with ternary (omit $affinity "nodeAffinity") $affinity (eq $onProducts "yes") }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- if and (include "wan-t2v.onGpu" .) .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName | quote }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "wan-t2v.onGpu" -}}
{{- if eq .Values.engine "tensorrt" }}yes{{ end -}}
{{- end -}}

{{- define "wan-t2v.products" -}}
{{- if and (include "wan-t2v.onGpu" .) .Values.gpu.products }}yes{{ end -}}
{{- end -}}
