{{/* Job gateway: common parts of the front and of the worker beside Triton. */}}
{{- define "wan-t2v.jobsName" -}}
{{ include "wan-t2v.fullname" . }}-jobs
{{- end -}}

{{- define "wan-t2v.jobsImage" -}}
{{- required "jobs.image: name the gateway's image, built from deploy/gateway.Dockerfile" .Values.jobs.image -}}
{{- end -}}

{{- define "wan-t2v.jobsEnvironment" -}}
- name: HOME
  value: /tmp
- name: WAN_T2V_GATEWAY_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "jobs.databaseSecret.name: name the Secret with the URL of a Postgres" .Values.jobs.databaseSecret.name | quote }}
      key: {{ .Values.jobs.databaseSecret.key | quote }}
- name: WAN_T2V_GATEWAY_STORE_URL
  value: {{ required "jobs.storeUrl: name the bucket, such as s3://videos; pods share no folder" .Values.jobs.storeUrl | quote }}
{{- end -}}

{{- define "wan-t2v.jobsEnvironmentFrom" -}}
{{- with .Values.jobs.storeSecret }}
- secretRef:
    name: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "wan-t2v.jobsArguments" -}}
- --host=0.0.0.0
- --port=8080
- --data=/tmp/gateway
{{- if .Values.jobs.redirectSeconds }}
- --redirects={{ int64 .Values.jobs.redirectSeconds }}
{{- end }}
{{- /* Absent after an upgrade of an older release with --reuse-values: then the gateway's own defaults hold. */}}
{{- with .Values.jobs.keepDays }}
- --keep-days={{ toJson . }}
{{- end }}
{{- with .Values.jobs.keepGib }}
- --keep-gib={{ toJson . }}
{{- end }}
{{- range .Values.jobs.webhookHosts }}
- --webhook-host={{ . }}
{{- end }}
{{- with .Values.jobs.tracesUrl }}
- --traces-url={{ . }}
{{- end }}
{{- end -}}

{{- define "wan-t2v.jobsResources" -}}
requests:
  cpu: {{ .Values.jobs.cpu }}
  memory: {{ .Values.jobs.memory }}
limits:
  memory: {{ .Values.jobs.memory }}
{{- end -}}

{{- define "wan-t2v.jobsLiveness" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: jobs
  periodSeconds: 10
  failureThreshold: 6
{{- end -}}

{{/* The worker in a server's pod. It calls only the server of its pod, so no router is needed. */}}
{{- define "wan-t2v.jobsWorker" -}}
{{- if and .Values.tls.enabled (not .Values.authProxy.enabled) }}
{{- fail "jobs: with tls Triton speaks TLS inside its pod too, and the worker beside it does not; let authProxy speak TLS" }}
{{- end }}
{{- if include "wan-t2v.unaryOnly" . }}
{{- fail "jobs: the workers call the streaming endpoint, which a server with placement.doors: unary lacks; set placement.doors to both or stream" }}
{{- end }}
{{- if has "inference" .Values.server.restrictedProtocols }}
{{- fail "jobs: the workers send no administrator's key, which inference in server.restrictedProtocols asks for; remove it from the list" }}
{{- end }}
- name: jobs-worker
  image: {{ include "wan-t2v.jobsImage" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  # A sidecar, so that it ends after the server and can store the running video while the pod drains. While the server
  # drains, it is not ready and the worker takes no job; one that it has just taken returns to the queue.
  restartPolicy: Always
  args:
    {{- include "wan-t2v.jobsArguments" . | nindent 4 }}
    - --url=127.0.0.1:8001
    - --workers={{ include "wan-t2v.number" (list . "jobs.workersPerPod") }}
    - --wait-for-database
    {{- if .Values.resuming.existingClaim }}
    - --resumes
    {{- end }}
  env:
    {{- include "wan-t2v.jobsEnvironment" . | nindent 4 }}
  {{- with include "wan-t2v.jobsEnvironmentFrom" . }}
  envFrom:
    {{- . | trim | nindent 4 }}
  {{- end }}
  ports:
    - name: jobs
      containerPort: 8080
  # No readiness probe: the pod's readiness is the server's, whose other callers need neither jobs nor their database.
  {{- include "wan-t2v.jobsLiveness" . | nindent 2 }}
  securityContext:
    {{- include "wan-t2v.securityContext" . | nindent 4 }}
  resources:
    {{- include "wan-t2v.jobsResources" . | nindent 4 }}
  volumeMounts:
    - name: tmp-jobs
      mountPath: /tmp
{{- end -}}
