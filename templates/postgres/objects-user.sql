alter role {{ user.name }} {% for attribute in role_attributes %}{% if attribute in user.attributes %}{{ attribute }}{% else %}no{{ attribute }}{% endif %} {% endfor %};
{% for group in user.member_of %}grant {{ group }} to {{ user.name }};
{% endfor -%}
