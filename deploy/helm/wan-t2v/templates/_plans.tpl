{{/* The set of plans: its name, its volume, and the Job that builds it. */}}
{{/* Options of the Job's step that writes torch programs. Empty if nothing runs in torch. */}}
{{- define "wan-t2v.programArguments" -}}
{{- if eq (include "wan-t2v.textEncoder" .) "cpu" }}
- --graph=text_encoder
- --text-encoder-precision=bf16
{{- end }}
{{- if eq (include "wan-t2v.vaeEngine" .) "torch" }}
- --graph=vae_decoder_first
- --graph=vae_decoder_next
- --vae-precision={{ .Values.placement.vae }}
{{- end }}
{{- end -}}

{{- define "wan-t2v.needsRanges" -}}
{{- if has .Values.placement.experts (list "fp8" "int8-bf16") }}yes{{ end -}}
{{- end -}}

{{/* The kind of GPU, which plans depend on: its resource, and the product label wherever the values name one. A part that
is null is one that is empty. */}}
{{- define "wan-t2v.gpuKind" -}}
{{- $label := "nvidia.com/gpu.product" -}}
{{- $kind := list .Values.gpu.resourceName (default list .Values.gpu.products) (get (default dict .Values.nodeSelector) $label) -}}
{{- $nodes := default dict (default dict .Values.affinity).nodeAffinity -}}
{{- $required := default dict $nodes.requiredDuringSchedulingIgnoredDuringExecution -}}
{{- range $required.nodeSelectorTerms -}}
{{- range (default dict .).matchExpressions -}}
{{- if eq (default "" (default dict .).key) $label -}}
{{- $kind = append $kind . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $kind -}}
{{- end -}}

{{/* Everything that changes the files of a plan set. A set that is served must not be built again from other inputs. */}}
{{- define "wan-t2v.planInputs" -}}
{{- $checkpoint := dict "existingClaim" (default "" .Values.checkpoint.existingClaim) "path" (default "" .Values.checkpoint.path) -}}
{{- if include "wan-t2v.needsRanges" . -}}
{{- $checkpoint = set $checkpoint "fp8Ranges" (default "" .Values.checkpoint.fp8Ranges) -}}
{{- end -}}
{{- list .Values.placement.sizes .Values.placement.experts .Values.placement.vae $checkpoint (include "wan-t2v.programArguments" . | trim) (include "wan-t2v.gpuKind" .) (include "wan-t2v.image" .) | toJson -}}
{{- end -}}

{{- define "wan-t2v.planSet" -}}
{{- if .Values.plans.set -}}
{{- .Values.plans.set -}}
{{- else -}}
{{- printf "%s-%s-%s" (first .Values.placement.sizes) .Values.placement.experts (include "wan-t2v.planInputs" . | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "wan-t2v.planClaim" -}}
{{- if .Values.plans.existingClaim -}}
{{- .Values.plans.existingClaim -}}
{{- else if .Values.plans.create.enabled -}}
{{- printf "%s-plans" (include "wan-t2v.fullname" .) -}}
{{- else -}}
{{- fail "plans need a volume: set plans.existingClaim, or plans.create.enabled to make one" -}}
{{- end -}}
{{- end -}}

{{/* `spec` of the Job that builds the plan set. */}}
{{- define "wan-t2v.plansJob" -}}
{{- $set := include "wan-t2v.planSet" . -}}
{{- $programs := include "wan-t2v.programArguments" . | trim -}}
{{- $memory := include "wan-t2v.number" (list . "plans.job.memoryGib") -}}
backoffLimit: {{ include "wan-t2v.int" .Values.plans.job.backoffLimit }}
activeDeadlineSeconds: {{ include "wan-t2v.int" .Values.plans.job.activeDeadlineSeconds }}
template:
  metadata:
    labels:
      {{- include "wan-t2v.selector" . | nindent 6 }}
      app.kubernetes.io/component: plans
    annotations:
      cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "wan-t2v.fullname" . | quote }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    securityContext:
      {{- include "wan-t2v.podSecurityContext" . | nindent 6 }}
    {{- include "wan-t2v.scheduling" . | trim | nindent 4 }}
    {{- with $programs }}
    initContainers:
      # Runs before the plans, whose step lists every file of the set.
      - name: programs
        image: {{ include "wan-t2v.image" $ | quote }}
        imagePullPolicy: {{ $.Values.image.pullPolicy }}
        workingDir: /opt/wan-t2v
        command: [python3, -m, export.to_torch_program]
        args:
          - --checkpoint
          - /checkpoint/{{ $.Values.checkpoint.path }}
          - --repository
          - /plans/{{ $set }}/model_repository
          {{- . | nindent 10 }}
        env:
          {{- include "wan-t2v.environment" $ | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          {{- include "wan-t2v.securityContext" $ | nindent 10 }}
        resources:
          requests:
            cpu: {{ $.Values.plans.job.cpu | quote }}
            memory: {{ $memory }}Gi
          limits:
            memory: {{ $memory }}Gi
        volumeMounts:
          - name: checkpoint
            mountPath: /checkpoint
            readOnly: true
          - name: plans
            mountPath: /plans
          - name: tmp
            mountPath: /tmp
    {{- end }}
    containers:
      - name: plans
        image: {{ include "wan-t2v.image" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        workingDir: /opt/wan-t2v
        command: [python3, -m, deploy.image.build_plans]
        args:
          - --checkpoint
          - /checkpoint/{{ .Values.checkpoint.path }}
          - --into
          - /plans/{{ $set }}
          - --sizes
          - {{ join "," .Values.placement.sizes | quote }}
          - --precision
          - {{ .Values.placement.experts }}
          - --text-encoder-precision
          - bf16
          - --vae-precision
          - {{ .Values.placement.vae }}
          {{- if include "wan-t2v.needsRanges" . }}
          - --fp8-ranges
          - /checkpoint/{{ required "checkpoint.fp8Ranges: experts in FP8 or INT8 need the file that `python -m export calibrate` wrote" .Values.checkpoint.fp8Ranges }}
          {{- end }}
          - --tensorrt
          - tensorrt
        env:
          {{- include "wan-t2v.environment" . | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          {{- include "wan-t2v.securityContext" . | nindent 10 }}
        resources:
          requests:
            cpu: {{ .Values.plans.job.cpu | quote }}
            memory: {{ $memory }}Gi
          limits:
            memory: {{ $memory }}Gi
            {{ .Values.gpu.resourceName }}: "1"
        volumeMounts:
          - name: checkpoint
            mountPath: /checkpoint
          - name: plans
            mountPath: /plans
          - name: tmp
            mountPath: /tmp
    volumes:
      - name: checkpoint
        persistentVolumeClaim:
          claimName: {{ required "checkpoint.existingClaim: name the volume that holds the checkpoint, or set plans.job.enabled to false" .Values.checkpoint.existingClaim | quote }}
      - name: plans
        persistentVolumeClaim:
          claimName: {{ include "wan-t2v.planClaim" . | quote }}
      - name: tmp
        emptyDir:
          sizeLimit: {{ include "wan-t2v.number" (list . "resources.tmpGib") }}Gi
{{- end -}}
