{{/* tritonserver's command line. */}}
{{- define "wan-t2v.serverArguments" -}}
- --model-repository=/repository
{{- if include "wan-t2v.onGpu" . }}
{{- range (include "wan-t2v.placement" . | fromJson).options }}
- {{ . | quote }}
{{- end }}
{{- else }}
- --model-config-name=cpu
- --disable-auto-complete-config
{{- end }}
- --cache-config=local,size={{ mul .Values.server.textCacheMib 1048576 }}
- --exit-on-error=true
- --strict-readiness=true
- --exit-timeout-secs={{ .Values.server.exitTimeoutSeconds }}
- --http-port=8000
- --grpc-port=8001
- --metrics-port=8002
{{- if or .Values.tls.enabled .Values.authProxy.enabled }}
- --http-address=127.0.0.1
# the default is the HTTP address
- --metrics-address=0.0.0.0
{{- end }}
{{- if .Values.authProxy.enabled }}
- --grpc-address=127.0.0.1
{{- end }}
{{- if and .Values.tls.enabled (not .Values.authProxy.enabled) }}
- --grpc-use-ssl=true
- --grpc-server-cert=/tls/tls.crt
- --grpc-server-key=/tls/tls.key
{{- if .Values.tls.clientAuth }}
- --grpc-use-ssl-mutual=true
- --grpc-root-cert=/tls/ca.crt
{{- end }}
{{- end }}
{{- with .Values.server.restrictedProtocols }}
- --grpc-restricted-protocol={{ join "," . }}:admin-key=$(WAN_T2V_ADMIN_KEY)
- --http-restricted-api={{ join "," . }}:admin-key=$(WAN_T2V_ADMIN_KEY)
{{- end }}
{{- with .Values.server.keepalive }}
- --grpc-keepalive-time={{ .timeMs }}
- --grpc-keepalive-timeout={{ .timeoutMs }}
- --grpc-keepalive-permit-without-calls=true
- --grpc-http2-max-pings-without-data=0
- --grpc-http2-min-recv-ping-interval-without-data={{ .minClientPingMs }}
- --grpc-max-connection-age={{ .maxConnectionAgeMs }}
{{- end }}
- --grpc-max-response-pool-size={{ .Values.server.responsePoolSize }}
- --http-max-input-size={{ mul .Values.server.httpMaxInputMib 1048576 }}
{{- with .Values.monitoring.tracing }}
{{- if .url }}
- --trace-config=mode=opentelemetry
- --trace-config=opentelemetry,url={{ .url }}
- --trace-config=level=TIMESTAMPS
- --trace-config=rate={{ .rate }}
{{- end }}
{{- end }}
{{- range .Values.server.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "wan-t2v.environment" -}}
- name: HOME
  value: /tmp
- name: WAN_T2V_RUN_DIR
  value: /run/wan-t2v
{{- end -}}

{{/* Options of the init container that makes the model repository. */}}
{{- define "wan-t2v.assembleArguments" -}}
- --repository
- /repository
{{- if include "wan-t2v.onGpu" . }}
- --plan-set
- /plans/{{ include "wan-t2v.planSet" . }}
- --config-set
- placed
- --expected-options
- {{ (include "wan-t2v.placement" . | fromJson).options | toJson | quote }}
- --
{{- include "wan-t2v.placementArguments" . }}
{{- else }}
- --checkpoint
- training/wan-mini
- --folder
- /tmp/export
{{- end }}
{{- end -}}

{{/* gRPC methods for callers outside the cluster: inference, readiness and statistics. */}}
{{- define "wan-t2v.callersMethods" -}}
- ModelInfer
- ModelStreamInfer
- ServerLive
- ServerReady
- ModelReady
- ModelStatistics
{{- end -}}
