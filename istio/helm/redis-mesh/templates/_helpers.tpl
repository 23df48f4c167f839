{{- define "redis-mesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "redis-mesh.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "redis-mesh.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "redis-mesh.selectorLabels" -}}
app.kubernetes.io/name: {{ include "redis-mesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "redis-mesh.labels" -}}
{{ include "redis-mesh.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: controller
app.kubernetes.io/part-of: redis-mesh
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "redis-mesh.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "redis-mesh.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "redis-mesh.image" -}}
{{- $repository := required "image.repository is needed, such as registry.example.com/redis-mesh: there is no published image, and istio/README.md says how to build yours" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "redis-mesh.advertiseUrl" -}}
{{- default (printf "http://%s.%s.svc.%s:8080" (include "redis-mesh.fullname" .) .Release.Namespace .Values.istio.clusterDomain) .Values.filter.advertiseUrl }}
{{- end }}

{{- /* The ConfigMap that istiod of this revision reads. */}}
{{- define "redis-mesh.meshConfigMap" -}}
{{- if or (not .Values.istio.revision) (eq .Values.istio.revision "default") }}istio{{ else }}istio-{{ .Values.istio.revision }}{{ end }}
{{- end }}

{{- define "redis-mesh.subject" -}}
- kind: ServiceAccount
  name: {{ include "redis-mesh.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- /* The verbs for the Secrets that objects name: the controller opens a watch for each. */}}
{{- define "redis-mesh.secretsVerbs" -}}
[get, list, watch]
{{- end }}
