<?xml version="1.0"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
<xsl:include href="year.xsl"/>
<xsl:output method="html" encoding="utf-8"/>
<xsl:template match="/gallery"><ul><xsl:apply-templates select="painting"><xsl:sort select="@year"/></xsl:apply-templates></ul></xsl:template>
</xsl:stylesheet>
