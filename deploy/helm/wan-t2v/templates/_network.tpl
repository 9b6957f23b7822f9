{{/* Ports and peers of the pods. */}}
{{/* Port of a server's pod on which callers reach gRPC. It is a number, and so is that of the jobs: a name may be a sidecar's
port, which Kubernetes before 1.33 does not resolve for Services, nor do some load balancers and network plugins. */}}
{{- define "wan-t2v.grpcPort" -}}
{{- if .Values.authProxy.enabled }}{{ include "wan-t2v.number" (list . "authProxy.port") }}{{ else }}8001{{ end -}}
{{- end -}}

{{/* Whether pods of other namespaces, or addresses, are among these peers of the NetworkPolicy. */}}
{{- define "wan-t2v.fromElsewhere" -}}
{{- range . -}}
{{- if or (hasKey . "namespaceSelector") (hasKey . "ipBlock") }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* What calls of this URL need and no rule of the egress has. A rule without ports has all, and a port's name may be any. */}}
{{- define "wan-t2v.cutOff" -}}
{{- $egress := index . 0 -}}
{{- $url := default "" (index . 1) -}}
{{- $place := regexReplaceAll "^https?://([^/?#]*).*$" $url "${1}" -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $place) | default (hasPrefix "https:" $url | ternary "443" "80") -}}
{{- $needed := list -}}
{{- if and $url (not (include "wan-t2v.letsOut" (list $egress "TCP" $port))) -}}
{{- $needed = append $needed (printf "TCP port %s" $port) -}}
{{- end -}}
{{- /* An address, or one that Kubernetes fills in as $(NAME), needs no DNS. */ -}}
{{- $isName := not (regexMatch "^([0-9.]+(:[0-9]+)?$|\\[|\\$\\()" $place) -}}
{{- if and $url $isName (not (include "wan-t2v.letsOut" (list $egress "UDP" "53"))) -}}
{{- $needed = append $needed "DNS (UDP port 53)" -}}
{{- end -}}
{{- join " and " $needed -}}
{{- end -}}

{{/* Whether a rule of this egress lets out what goes to this port. */}}
{{- define "wan-t2v.letsOut" -}}
{{- $protocol := index . 1 -}}
{{- $wanted := index . 2 | int -}}
{{- range index . 0 -}}
{{- if not .ports }}yes{{ end -}}
{{- range .ports -}}
{{- $entry := default dict . -}}
{{- $first := $entry.port -}}
{{- if eq $protocol (default "TCP" $entry.protocol) -}}
{{- if or (not $first) (kindIs "string" $first) }}yes
{{- else if and (ge $wanted (int $first)) (le $wanted (int (default $first $entry.endPort))) }}yes{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
