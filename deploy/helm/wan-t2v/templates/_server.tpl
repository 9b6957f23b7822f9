{{/* tritonserver's command line. */}}
{{- define "wan-t2v.serverArguments" -}}
{{- if .Values.tls.clientAuth }}
{{- if not .Values.tls.enabled }}
{{- fail "tls.clientAuth: without tls.enabled no client is asked for a certificate; set tls.enabled to true, or tls.clientAuth to false" }}
{{- else if .Values.authProxy.enabled }}
{{- fail "tls.clientAuth: with authProxy Triton speaks no TLS and asks no client for a certificate; set tls.clientAuth to false, and let the proxy's configuration ask for one (the Secret's ca.crt is in its folder /tls)" -}}
{{- end -}}
{{- end -}}
- --model-repository=/repository
{{- if include "wan-t2v.onGpu" . }}
{{- range (include "wan-t2v.placement" . | fromJson).options }}
- {{ . | quote }}
{{- end }}
{{- else }}
- --model-config-name=cpu
- --disable-auto-complete-config
{{- end }}
- --cache-config=local,size={{ mul (include "wan-t2v.number" (list . "server.textCacheMib")) 1048576 }}
# the pod's own, so that a restarted container removes what the last one left
- --backend-config=python,shm-region-prefix-name=wan_t2v_pod_
- --exit-on-error=true
- --strict-readiness=true
- --exit-timeout-secs={{ include "wan-t2v.number" (list . "server.exitTimeoutSeconds") }}
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
- --grpc-keepalive-time={{ include "wan-t2v.number" (list . "server.keepalive.timeMs") }}
- --grpc-keepalive-timeout={{ include "wan-t2v.number" (list . "server.keepalive.timeoutMs") }}
- --grpc-keepalive-permit-without-calls=true
- --grpc-http2-max-pings-without-data=0
- --grpc-http2-min-recv-ping-interval-without-data={{ include "wan-t2v.number" (list . "server.keepalive.minClientPingMs") }}
- --grpc-max-connection-age={{ include "wan-t2v.number" (list . "server.keepalive.maxConnectionAgeMs") }}
- --grpc-max-response-pool-size={{ include "wan-t2v.number" (list . "server.responsePoolSize") }}
- --http-max-input-size={{ mul (include "wan-t2v.number" (list . "server.httpMaxInputMib")) 1048576 }}
{{- with .Values.monitoring.tracing }}
{{- if .url }}
- --trace-config=mode=opentelemetry
- --trace-config=opentelemetry,url={{ .url }}
- --trace-config=level=TIMESTAMPS
- --trace-config=rate={{ include "wan-t2v.number" (list $ "monitoring.tracing.rate") }}
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
